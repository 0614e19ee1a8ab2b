"""`python -m engine.serve`."""

from engine.command_line import exit_with
from engine.serve import main

exit_with(main)
