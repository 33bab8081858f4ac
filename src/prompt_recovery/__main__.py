"""`python -m prompt_recovery <command> …` is `prompt-recovery <command> …`."""

from prompt_recovery.commands.main import main

if __name__ == "__main__":
    main()
