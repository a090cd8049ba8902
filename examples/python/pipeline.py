"""Calotype in a diffusers pipeline: pipeline.py MODEL PROMPT OUT"""

import sys

import torch
from diffusers import DiffusionPipeline

import calotype.diffusers

pipe = DiffusionPipeline.from_pretrained(sys.argv[1], torch_dtype=torch.bfloat16)
calotype.diffusers.replace_vae(pipe)
pipe(sys.argv[2]).images[0].save(sys.argv[3])
