#!/bin/sh
# Make the pictures of README.md and docs/ again: `make pictures`, with about ten minutes on two CPU cores.
#
# A concept's number depends on the machine, so the classes are looked up. The page's picture needs chromium.
set -eu
cd "$(dirname "$0")/.."
bin=$(pwd)/${BIN:-.venv/bin}
place=runs/pictures
rm -rf "$place"
"$bin/ucd" train quickstart --output "$place/quickstart"
"$bin/ucd" train mini-styles --output "$place/mini-styles"
"$bin/ucd" train mini-scenes --output "$place/mini-scenes"
export UCD_RUN="$place/quickstart"
"$bin/ucd" sample --concept all --num-images 10 --grid > /dev/null
"$bin/ucd" evaluate --metric all > /dev/null
"$bin/ucd" evaluate --metric assignment --run "$place/mini-styles" > /dev/null

# The concept that stands for a class: concept RUN CLASS
concept() {
  "$bin/python" - "$place/$1/evaluation.json" "$2" <<'EOF'
import json, sys
concepts = json.load(open(sys.argv[1]))["metrics"]["assignment"]["concepts"]
print(next(name for name, concept in concepts.items() if concept["matched_class"] == sys.argv[2]))
EOF
}
cart=$(concept quickstart "shopping cart") dog=$(concept quickstart dog) monkey=$(concept quickstart monkey)
fountain=$(concept quickstart geyser) mosque=$(concept quickstart mosque) sepia=$(concept mini-styles vintage)
echo "cart $cart, dog $dog, monkey $monkey, fountain $fountain; mini-styles: sepia $sepia"

# The Nth training image of a class: image CLASS N
image() {
  "$bin/python" - "$1" "$2" <<'EOF'
import json, sys
classes = json.load(open("recipes/data/quickstart/classes.json"))
print("recipes/data/quickstart/images/" + [name for name, (label,) in classes.items() if label == sys.argv[1]][int(sys.argv[2])])
EOF
}

# The sheet that a command writes, as docs/NAME: picture NAME COMMAND …
picture() {
  name=$1
  shift
  sheet=$("$bin/ucd" "$@" --output "$place/$name" | grep -E '(sheet|grid|like|sweep-[0-9]+)\.png$' | tail -1)
  cp "$sheet" "docs/$name.png"
}
cp "$UCD_RUN/samples/grid.png" docs/overview.png
picture scenes sample --concept all -n 6 --grid --run "$place/mini-scenes"
picture compose compose "$monkey=5" "$place/mini-styles:$sepia=2" -n 6 --grid
picture compose-text compose "$cart=4" "on a pink background=4" -n 6 --grid
picture sweep compose "$monkey=4" --sweep "$place/mini-styles:$sepia=0:6:6" --sweep "at night=0:4:3" --seed 2
picture two compose "$monkey" "$mosque" -n 6 --grid
picture places compose "$monkey@left=8" "$fountain@right=8" -n 6 --grid
picture like compose --like "$(image dog 0)" "$dog=0" "$monkey=+5" -n 3 --grid
picture heatmap visualize --concept "$monkey" --concept "$fountain" --num-images 1 --grid
picture heatmap-images visualize "$(image "shopping cart" 0)" "$(image mosque 0)" "$(image dog 0)" "$(image monkey 0)" \
  "$(image geyser 0)" --grid
"$bin/ucd" compose "$monkey" "$mosque" -n 6 --grid > /dev/null
"$bin/ucd" visualize --training-images --grid > /dev/null
"$bin/ucd" report
"$bin/python" - "$UCD_RUN/report.html" docs/report.png <<'EOF'
import pathlib, shutil, sys
from playwright.sync_api import sync_playwright

with sync_playwright() as driver:
    browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
    page = browser.new_page(viewport={"width": 1352, "height": 904})
    page.goto(pathlib.Path(sys.argv[1]).resolve().as_uri())
    page.screenshot(path=sys.argv[2])
EOF

# The studio's page, where Gradio is installed.
if "$bin/python" -c "import gradio" 2> /dev/null; then
  "$bin/ucd" studio > "$place/studio.txt" &
  studio=$!
  until grep -q http "$place/studio.txt"; do sleep 1; done
  "$bin/python" - "$(cat "$place/studio.txt")" "$monkey" "$dog" "$fountain" docs/studio.png <<'EOF'
import shutil, sys
from playwright.sync_api import sync_playwright

address, monkey, dog, fountain, picture = sys.argv[1:]
with sync_playwright() as driver:
    browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
    page = browser.new_page(viewport={"width": 1280, "height": 672})
    page.goto(address)
    page.locator(".clear").click()
    for name, weight in ((monkey, 5), (dog, 4), (fountain, -1.5)):
        page.get_by_label(f"Weight of {name} as a number").fill(str(weight))
    page.locator(".seed input").fill("4")
    page.locator(".add input").fill("on a pink background")
    page.keyboard.press("Enter")
    page.locator(".keep:enabled").wait_for()
    page.mouse.click(5, 5)
    page.wait_for_timeout(1000)
    page.screenshot(path=picture)
EOF
  kill $studio
fi
