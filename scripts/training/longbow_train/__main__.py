from . import run
from .cli import train

if __name__ == "__main__":
    run(train)
