"""`python -m prompt_recovery.shipping runs=[…] output=<folder> [test=true]`."""

from prompt_recovery.shipping.make import ShippingSettings, ship
from prompt_recovery.shipping.script import run_script

if __name__ == "__main__":
    run_script(ShippingSettings, ship)
