"""`python -m prompt_recovery.shipping runs=[…] output=<folder> [test=true]`."""

import logging
import sys

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from prompt_recovery.errors import PromptRecoveryError, printable
from prompt_recovery.settings.checking import check, make
from prompt_recovery.shipping.make import ShippingSettings, ship


def main() -> None:
    """Reads the settings of the command line, and prints errors as one line."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("prompt_recovery").setLevel(logging.INFO)
    try:
        given = check(OmegaConf.from_cli(sys.argv[1:]), ShippingSettings)
        ship(make(given, ShippingSettings))
    except (PromptRecoveryError, OmegaConfBaseException) as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
