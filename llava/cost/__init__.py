"""What a plan costs any host before it runs: visual tokens from a picture's size, FLOPs and cache from a config."""

from .answered import model_cost
from .estimate import Estimate, Prompt, estimates, pictures
from .host import Host, from_config, preset, preset_names

__all__ = ["Estimate", "Host", "Prompt", "estimates", "from_config", "model_cost", "pictures", "preset", "preset_names"]
