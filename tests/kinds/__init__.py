"""Kinds of checkpoint that people hold: small files made by the projects' own classes or in their layouts."""
