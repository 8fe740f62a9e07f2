#include "server/store/kv.h"
