#include "common/a.h"
#include "common/net/net.h"
#include "server/core/core.h"

#include <string.h>
#include <pthread.h>
#include <sys/socket.h>
