"""ComfyUI nodes: Calotype in the place of ComfyUI's own VAE, exact at any size and without tiles.

Put this folder into ComfyUI's `custom_nodes` (as `calotype`) and `pip install calotype`.
"""

from .nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]
