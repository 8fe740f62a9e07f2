#include "server/rpc/dispatch.h"
#include "client/include/kluis.h"
