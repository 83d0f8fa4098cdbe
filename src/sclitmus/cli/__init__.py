"""The command line: what `sclitmus --help` lists. The only package that prints."""

import sys
from pathlib import Path

from sclitmus.cli import assess, models, pretrain, results, splits, tables  # noqa: F401 - they add the verbs
from sclitmus.cli.app import BAD_INPUT, INTERRUPTED, OK, app
from sclitmus.errors import NotApplicable, SclitmusError


def main() -> None:
    """Run the command line; what the user can mend is printed without a traceback."""
    sys.path.insert(0, str(Path.cwd()))  # so that `--methods mymodule:MyModel` is found here
    try:
        code = app()
    except SclitmusError as error:
        print(f"sclitmus: {error}", file=sys.stderr)
        code = BAD_INPUT
    except NotApplicable as absence:
        print(f"sclitmus: not applicable: {absence.reason}", file=sys.stderr)
        code = BAD_INPUT
    except KeyboardInterrupt:
        print("sclitmus: interrupted; run the same command again to go on", file=sys.stderr)
        code = INTERRUPTED
    except BrokenPipeError:  # `sclitmus list methods | head -1`
        sys.stderr.close()
        code = OK
    sys.exit(code if isinstance(code, int) else OK)
