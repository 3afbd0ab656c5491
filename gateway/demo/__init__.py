"""The real parts a demonstration needs, private to it: an engine, a registry, images. Tests use them too."""

#: words before a program that must not outlive us, even when we are killed: see setpriv(1)
WITH_US = ("setpriv", "--pdeathsig", "TERM")
