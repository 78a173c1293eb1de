import logging
import math

from django.http import HttpRequest, JsonResponse
from django.views.decorators.http import require_GET

from streamipc import RequestTimeoutError, WorkerPool, WorkersUnavailableError, python_command

from .messages import Suggest

log = logging.getLogger(__name__)

# This starts nothing, so it makes no difference whether the server forks before or after it.
# The children may be asked twice for the same thing: if one dies, another one is asked.
speller = WorkerPool(
    python_command("-m", "shop.speller"), size=2, ready=Suggest("ready"), retries=1
)


@require_GET
def suggest(request: HttpRequest, word: str) -> JsonResponse:
    try:
        found = speller.call(Suggest(word), timeout=5)
    except WorkersUnavailableError as error:
        log.error("%s", error)
        seconds = max(1, math.ceil(error.retry_after))
        return JsonResponse(
            {"error": "try again later"}, status=503, headers={"Retry-After": str(seconds)}
        )
    except RequestTimeoutError:
        return JsonResponse({"error": "this takes too long"}, status=504)
    return JsonResponse({"word": found.word, "nearest": found.nearest})


@require_GET
def health(request: HttpRequest) -> JsonResponse:
    is_well = speller.check(timeout=1)
    return JsonResponse({"speller": is_well}, status=200 if is_well else 503)
