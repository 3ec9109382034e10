"""A progress bar is for people only."""

import io

from anomalib_stfpm_deploy.progress import Progress


class Terminal(io.StringIO):
    """Shows what is written to it."""

    def isatty(self) -> bool:
        return True


def test_on_a_terminal_it_ends_full() -> None:
    terminal = Terminal()
    progress = Progress(3, terminal)
    for _ in range(3):
        progress.advance()
    assert "█" * 30 + " 3/3" in terminal.getvalue()
    assert terminal.getvalue().endswith("0:00 left   \n")


def test_elsewhere_it_says_nothing() -> None:
    file = io.StringIO()
    Progress(1, file).advance()
    assert file.getvalue() == ""
