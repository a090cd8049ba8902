#!/usr/bin/env python3
"""What tiles do to a picture: the same latents by Calotype, by diffusers' enable_tiling() and by overlapping tiles blended linearly.

Decodes the latents of a flat grey picture, and of the bundled photograph, with the embedded model; compares each result with the untiled
float64 network (diffusers in double precision); writes docs/exactness.png (differences amplified) and docs/exactness.md.

    $(scripts/python-env.sh) bench/exactness.py --calotype build/calotype
"""

import argparse
import json
import pathlib
import subprocess
import tempfile

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image, ImageDraw

ROOT = pathlib.Path(__file__).resolve().parent.parent
AMPLIFY = 32


def calotype_decode(program, z):
    with tempfile.TemporaryDirectory() as folder:
        latents, picture = f"{folder}/z.npy", f"{folder}/picture.npy"
        np.save(latents, z.numpy().astype(np.float32))
        subprocess.run(
            [program, "decode", "--quiet", "--unscaled", "--memory", "256M", latents, "-o", picture],
            check=True,
        )
        return torch.from_numpy(np.load(picture)).permute(0, 3, 1, 2).double()


def linear_blend(decode, z, tile=64, overlap=16, factor=8):
    """Tiles of 64 latents that overlap by 16, weights rising linearly over the overlap, as Ollama's image generation blends them."""
    height, width = z.shape[-2:]
    out = torch.zeros(1, 3, height * factor, width * factor, dtype=torch.float64)
    weights = torch.zeros_like(out)

    def starts(size):
        if size <= tile:
            return [0]
        return sorted(set(range(0, size - tile, tile - overlap)) | {size - tile})

    def ramp(start, size):
        length = min(tile, size) * factor
        weight = torch.ones(length, dtype=torch.float64)
        rise = (torch.arange(overlap * factor, dtype=torch.float64) + 0.5) / (overlap * factor)
        if start > 0:
            weight[: overlap * factor] = rise
        if start + tile < size:
            weight[-overlap * factor :] = rise.flip(0)
        return weight

    for y in starts(height):
        for x in starts(width):
            part = decode(z[..., y : y + tile, x : x + tile])
            weight = ramp(y, height)[:, None] * ramp(x, width)[None, :]
            area = (..., slice(y * factor, y * factor + part.shape[-2]), slice(x * factor, x * factor + part.shape[-1]))
            out[area] += part * weight
            weights[area] += weight
    return out / weights


def figures(result, truth):
    difference = result - truth
    to8 = lambda t: torch.round(255 * (t / 2 + 0.5).clamp(0, 1))
    steps = (to8(result) - to8(truth)).abs()
    return {
        "relative_rms": (difference.square().sum() / truth.square().sum()).sqrt().item(),
        "maximum_8bit": steps.max().item(),
        "changed_8bit": (steps > 0).double().mean().item(),
    }


def row(name, engine, f):
    return f"| {name} | {engine} | {f['relative_rms']:.1e} | {f['maximum_8bit']:.0f} | {100 * f['changed_8bit']:.3g} % |"


def panel(result, truth):
    shown = (0.5 + AMPLIFY * (result - truth) / 2).clamp(0, 1)[0].permute(1, 2, 0)
    return Image.fromarray((255 * shown.numpy()).round().astype(np.uint8)).resize((512, 512), Image.BOX)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calotype", default="build/calotype")
    parser.add_argument("--side", type=int, default=1024, help="of the pictures, in pixels; a multiple of 16")
    parser.add_argument("--out", default=str(ROOT / "docs"))
    args = parser.parse_args()
    torch.set_num_threads(2)

    vae = AutoencoderKL.from_pretrained(ROOT / "models/mini", torch_dtype=torch.float64)
    photo = Image.open(ROOT / "models/photos/astronaut.png").convert("RGB").resize((args.side, args.side), Image.LANCZOS)
    pictures = {
        "flat grey": torch.zeros(1, 3, args.side, args.side, dtype=torch.float64),
        "photograph": torch.from_numpy(np.asarray(photo).copy()).permute(2, 0, 1)[None].double() / 127.5 - 1,
    }
    rows, panels, report = [], [], {}
    for name, picture in pictures.items():
        with torch.no_grad():
            # One latent everywhere for the flat picture: what the middle of its encoding is.
            z = vae.encode(picture).latent_dist.mode()
            if name == "flat grey":
                z = z[..., args.side // 16, args.side // 16][..., None, None].expand(-1, -1, args.side // 8, args.side // 8).contiguous()
            z = z.float().double()
            truth = vae.decode(z).sample
            float32 = vae.float().decode(z.float()).sample.double()
            vae.double()
            vae.enable_tiling()
            tiled = vae.decode(z).sample
            vae.disable_tiling()
            blended = linear_blend(lambda part: vae.decode(part).sample, z)
        results = {
            "Calotype, 256 MiB": calotype_decode(args.calotype, z),
            "diffusers, enable_tiling()": tiled,
            "tiles of 64, 16 overlap, linear blend": blended,
        }
        for engine, result in results.items():
            f = report[f"{name}: {engine}"] = figures(result, truth)
            rows.append(row(name, engine, f))
            panels.append((f"{name}: {engine}", panel(result, truth)))
        rows.append(row(name, "diffusers, float32, untiled", figures(float32, truth)))

    sheet = Image.new("RGB", (3 * 520 - 8, 2 * 540 - 8), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (caption, image) in enumerate(panels):
        x, y = i % 3 * 520, i // 3 * 540
        sheet.paste(image, (x, y))
        draw.text((x + 4, y + 514), caption, fill="black")
    out = pathlib.Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    sheet.save(out / "exactness.png", optimize=True)
    template = (ROOT / "docs/exactness.template.md").read_text()
    (out / "exactness.md").write_text(template.replace("@TABLE@", "\n".join(rows)).replace("@AMPLIFY@", str(AMPLIFY)))
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
