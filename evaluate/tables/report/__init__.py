"""From result.json files and published numbers to the transfer table and the report."""
