"""A picture to latents and back: roundtrip.py PICTURE OUT [MODEL]"""

import sys

import calotype
from PIL import Image

vae = calotype.AutoencoderKL.from_pretrained(sys.argv[3] if len(sys.argv) > 3 else None)
latents = vae.encode(Image.open(sys.argv[1]))
print(f"{vae.source}: latents {latents.shape}, mean {latents.mean():.3f}, std {latents.std():.3f}")
picture = vae.decode(latents)
assert not isinstance(picture, list)  # as it is of a batch of several
picture.save(sys.argv[2])
