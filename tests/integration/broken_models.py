"""Models that fail, to be compared with others."""

from typing import NoReturn

from anomalib.models import Padim


class Raises(Padim):
    """A model that raises in training."""

    def training_step(self, *args: object, **kwargs: object) -> NoReturn:
        """Raise."""
        del args, kwargs
        message = "nothing can be learned\nfrom this"
        raise RuntimeError(message)
