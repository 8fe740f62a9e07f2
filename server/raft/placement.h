/*
 * Where leadership belongs. How far a voter is from the group's home decides when it stands for
 * election and whether it keeps what it won.
 */
#ifndef KL_PLACEMENT_H
#define KL_PLACEMENT_H

enum kl_distance {
    KL_DISTANCE_HOME,    /* leads */
    KL_DISTANCE_PAIR,    /* leads while nobody at home can */
    KL_DISTANCE_WITNESS, /* hands over as soon as anybody nearer has caught up */
    KL_DISTANCE_DRAINED, /* so does this, and it stands last for election */
};

/* How this node came to lead. */
enum kl_led {
    KL_LED_NOT,     /* it does not */
    KL_LED_FIRST,   /* nobody had led as far as this node knows */
    KL_LED_ELECTED, /* the leader before fell silent */
    KL_LED_HANDED,  /* the leader before handed over */
};

#endif
