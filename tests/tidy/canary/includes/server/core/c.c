#include "common/buf.h"
#include "command.pb-c.h"
#include "rpc.pb-c.h"
#include "common/net/net.h"
#include "server/runtime/clock.h"

#include <stdint.h>
#include <time.h>
#include <openssl/evp.h>
