#include "common/buf.h"
#include "common/net/net.h"
#include "server/runtime/clock.h"

#include <nng/nng.h>
#include <uv.h>
