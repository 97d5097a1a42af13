"""The pool of children that turn untrusted containers into samples."""
