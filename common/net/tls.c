#include "common/net/net.h"
