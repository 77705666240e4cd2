"""The verbs, a file each: functions that a notebook could call. `cli.py` parses for them and prints."""
