#include "server/auth/auth.h"
