"""Networks that look at pictures: CLIP and ResNet. May import mini, recipe, data and errors."""
