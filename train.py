"""python train.py model=mistral objective=sft   (the same as `prompt-recovery train …`)."""

from prompt_recovery.commands.train import train

if __name__ == "__main__":
    train()
