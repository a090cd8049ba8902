"""The nodes: a loader, decode, encode."""

import calotype

from .vae import CalotypeVAE, as_calotype

CATEGORY = "latent/calotype"
EMBEDDED = "embedded"


def _files():
    """The files in ComfyUI's folders models/vae and models/checkpoints, by name."""
    try:
        import folder_paths
    except ImportError:
        return {}
    found = {}
    for folder in ("vae", "checkpoints"):
        for name in folder_paths.get_filename_list(folder):
            if name.endswith((".safetensors", ".gguf")):
                found[f"{folder}/{name}"] = (folder, name)
    return found


def _models():
    """What the loader offers: the embedded model, ComfyUI's files, the hub cache's, Ollama's."""
    others = [entry.name for entry in calotype.list_models() if entry.name and not entry.problem]
    return [EMBEDDED, *_files(), *others]


class CalotypeVAELoader:
    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "model": (
                    _models(),
                    {"tooltip": "A file of models/vae or models/checkpoints, a model of the Hugging "
                                "Face cache or of Ollama, or the small embedded one."},
                ),
            },
            "optional": {
                "threads": ("INT", {"default": 0, "min": 0, "max": 1024, "tooltip": "0: all"}),
                "memory": (
                    "STRING",
                    {"default": "", "tooltip": 'Peak of a job, as "1.3G"; empty: no bound.'},
                ),
                "precision": (["auto", "f32", "fast", "bf16", "f16", "fp8"],),
            },
        }  # fmt: skip

    RETURN_TYPES = ("VAE",)
    FUNCTION = "load"
    CATEGORY = CATEGORY
    DESCRIPTION = "Loads an autoencoder that Calotype runs, on the CPU."

    def load(self, model, threads=0, memory="", precision="auto"):
        name = None if model == EMBEDDED else model
        if model in _files():
            import folder_paths

            name = folder_paths.get_full_path(*_files()[model])
        vae = calotype.AutoencoderKL.from_pretrained(name, local_files_only=True)
        options = {"threads": threads or None, "memory": memory or None, "precision": precision}
        return (CalotypeVAE(vae, **options),)


class CalotypeVAEDecode:
    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "samples": ("LATENT", {"tooltip": "The latents to decode, of any size."}),
                "vae": ("VAE", {"tooltip": "Of the Calotype loader, or of any other: its weights."}),
            }
        }

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "decode"
    CATEGORY = CATEGORY
    DESCRIPTION = "Decodes latents to pixels exactly, whole, without tiles."

    def decode(self, samples, vae):
        return (as_calotype(vae).decode(samples["samples"]),)


class CalotypeVAEEncode:
    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "pixels": ("IMAGE", {"tooltip": "The image to encode, of any size."}),
                "vae": ("VAE", {"tooltip": "Of the Calotype loader, or of any other: its weights."}),
            }
        }

    RETURN_TYPES = ("LATENT",)
    FUNCTION = "encode"
    CATEGORY = CATEGORY
    DESCRIPTION = "Encodes pixels to latents exactly, whole, without tiles."

    def encode(self, pixels, vae):
        return ({"samples": as_calotype(vae).encode(pixels)},)


NODE_CLASS_MAPPINGS = {
    "CalotypeVAELoader": CalotypeVAELoader,
    "CalotypeVAEDecode": CalotypeVAEDecode,
    "CalotypeVAEEncode": CalotypeVAEEncode,
}

NODE_DISPLAY_NAME_MAPPINGS = {
    "CalotypeVAELoader": "Load VAE (Calotype)",
    "CalotypeVAEDecode": "VAE Decode (Calotype)",
    "CalotypeVAEEncode": "VAE Encode (Calotype)",
}
