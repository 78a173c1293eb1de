# Runs in the gateway's process, where execnet defines ``channel``.
told, in_order = 0, True
channel.send(0)  # type: ignore[name-defined]  # noqa: F821
for message in channel:  # type: ignore[name-defined]  # noqa: F821
    if message is None:
        channel.send((told, in_order))  # type: ignore[name-defined]  # noqa: F821
    else:
        in_order = in_order and message[0] == told
        told += 1
