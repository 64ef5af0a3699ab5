"""``from swift.plugin import ORM, orms`` is all that a plugin needs."""

from swift.plugin.orm import ORM, orms

__all__ = ["ORM", "orms"]
