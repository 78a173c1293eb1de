# Runs in the gateway's process, where execnet defines ``channel``.
for number, text in channel:  # type: ignore[name-defined]  # noqa: F821
    channel.send((number + 1, text))  # type: ignore[name-defined]  # noqa: F821
