"""The built wheel, installed where only numpy is, away from the checkout."""
