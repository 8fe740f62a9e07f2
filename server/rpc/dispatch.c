#include "server/rpc/dispatch.h"
