"""Programs for developers, run from a checkout: no part of the product, and in no wheel."""
