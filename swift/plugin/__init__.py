"""The reward contract and its registry. A plugin needs only ``from swift.plugin import ORM, orms``."""

from swift.plugin import built_in
from swift.plugin.orm import ORM, orms

__all__ = ["ORM", "built_in", "orms"]
