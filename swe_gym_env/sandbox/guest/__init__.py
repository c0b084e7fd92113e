"""The code that runs inside a sandbox, or on the way into it.

It is started as a separate small program (``python -I -S``) and becomes process 1 of the sandbox.
Therefore it imports only light modules of the standard library and nothing from the rest of the
package; in a container it must also run on Python 3.9.

``main`` makes a sandbox of namespaces with ``root`` (its file system), ``kernel`` (system calls)
and ``seccomp`` (their filter); ``contained`` is the start in a container that an engine has made.
Both end in ``supervisor``, which serves requests (``wire``, ``files``) and ends processes
(``tree``).
"""
