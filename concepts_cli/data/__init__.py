"""Images, their cached latents, and the prompts that name a concept."""
