"""Networks that look at pictures: CLIP and ResNet. May import mini, data and errors."""
