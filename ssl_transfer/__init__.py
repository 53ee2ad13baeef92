"""The project as an installed package: `ssl-transfer COMMAND …`, or `python -m ssl_transfer COMMAND …`."""
