"""Run folders: reading, writing, finding and publishing them. May import models and below."""
