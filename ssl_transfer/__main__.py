"""`python -m ssl_transfer COMMAND …`, also under torchrun (`torchrun … -m ssl_transfer pretrain …`)."""

from ssl_transfer.command import main

if __name__ == "__main__":
    main()
