"""Training images, and the prompts that name a concept. May import errors and output."""
