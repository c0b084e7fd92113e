"""The code that runs inside a sandbox, or on the way into it.

It is started as a small program of its own (``python -I -S``) and lives as process 1 of the
sandbox, so it imports only light modules of the standard library, and nothing from the rest of the
package.
"""
