"""Arguments of the verbs that run without torch."""

import argparse
from typing import NoReturn

from .exit_codes import REFUSED


class Parser(argparse.ArgumentParser):
    """A parser whose exit code for wrong arguments is told from a number of unreadable pictures."""

    def error(self, message: str) -> NoReturn:
        """Refuse arguments.

        Args:
            message: What is wrong.
        """
        self.exit(REFUSED, f"{self.prog}: error: {message}\n")
