"""The comparison page, made by running both sides: small cases whose right answer is known."""
