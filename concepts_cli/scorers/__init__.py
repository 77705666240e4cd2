"""Networks that look at pictures: CLIP and ResNet. May import models and below."""
