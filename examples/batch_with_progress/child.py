"""Makes thumbnails. Pillow is imported here alone: the parent needs it only to make pictures."""

from messages import Made, MakeThumbnail
from PIL import Image

from streamipc import IpcPeer

session = IpcPeer().create_stdio_session()


@session.on_request
def make_thumbnail(msg: MakeThumbnail) -> Made:
    with Image.open(msg.source) as image:
        image.thumbnail((msg.size, msg.size))
        image.convert("RGB").save(msg.target)
        return Made(*image.size)


session.serve_forever()
