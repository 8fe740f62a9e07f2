#include "client/include/kluis.h"
#include "client/lib/internal.h"
#include "server/config.h"
#include <openssl/ssl.h>
