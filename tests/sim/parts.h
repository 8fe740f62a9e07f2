/*
 * What the parts of a world ask of one another.
 */
#ifndef SIM_PARTS_H
#define SIM_PARTS_H

#include "tests/sim/world.h"

/* log.c: where the server's log lines go. */
void sim_log_to(struct sim_world *w);

/* plan.c: what this seed is about. */
void sim_plan_draw(struct sim_world *w);

/* How far a node is from home in a plan with regions: enum kl_distance. */
uint8_t sim_distance(uint64_t node_id);

/* net.c: messages between nodes, and who can reach whom. */
void sim_net_init(struct sim_world *w);
void sim_net_done(struct sim_world *w);
void sim_net_send(struct sim_world *w, struct sim_replica *from, uint64_t to, enum kl_lane lane,
                  struct kl_bytes message);
/* Does a message that was sent in the pair's `generation` still arrive? */
bool sim_net_arrives(struct sim_world *w, uint64_t from, uint64_t to, uint64_t generation);
/* Cuts (or joins) one direction. */
void sim_net_cut(struct sim_world *w, uint64_t from, uint64_t to, bool cut);
void sim_net_heal(struct sim_world *w);
void sim_net_redial(struct sim_world *w, uint64_t a, uint64_t b);
/* A process is gone or new: connections break and come back. */
void sim_net_node(struct sim_world *w, uint64_t id, bool up);
void sim_net_weather(struct sim_world *w, unsigned latency_us, unsigned jitter_us,
                     unsigned loss_1000);
/* Delay of a client's message; false: it is lost. */
bool sim_net_client_delay(struct sim_world *w, uint64_t *delay_us);

/* node.c: processes. */
void sim_node_init(struct sim_world *w, struct sim_node *n, uint64_t id);
void sim_node_done(struct sim_world *w, struct sim_node *n);
void sim_node_start(struct sim_world *w, struct sim_node *n);
/* Ends the process without a word; power: with what its disks had not synced. */
void sim_node_crashed(struct sim_world *w, struct sim_node *n, bool power);
/* Begins a clean stop; ends in a check that nothing was left allocated. */
void sim_node_stop(struct sim_world *w, struct sim_node *n);
void sim_node_event(struct sim_node *n, struct sim_event *e);
uint64_t sim_node_wall_ms(struct sim_node *n);
/* Wall time without anybody's jumps or drift. */
uint64_t sim_true_wall_ms(const struct sim_world *w);

/* clock.c: what a node makes of everybody's clocks. */
void sim_clock_start(struct sim_node *n);
void sim_clock_tick(struct sim_replica *r);
/* A message between nodes; false: it is not about clocks. */
bool sim_clock_letter(struct sim_replica *r, uint64_t from, struct kl_bytes message);
bool sim_clock_held(void *ctx); /* of a node */

/* watch.c: what must never be. */
struct sim_entry {
    raft_term term;
    raft_index index;
    uint16_t group;
    unsigned type;
    uint64_t born_us; /* first appended anywhere */
    size_t len;
    uint8_t data[];
};
void sim_watch_init(struct sim_world *w);
void sim_watch_done(struct sim_world *w);
/* An entry goes to a log: the one such entry of the world. */
struct sim_entry *sim_watch_entry(struct sim_world *w, uint16_t group, raft_index index,
                                  const struct raft_entry *e);
/* A batch is written to a live store; called before and after it is carried out. */
void sim_watch_batch(struct sim_world *w, struct sim_replica *r, const struct kl_batch *batch);
void sim_watch_state(struct sim_world *w, struct sim_replica *r);
/* An entry leaves a log, on the word of a leader of the term. */
void sim_watch_truncate(struct sim_world *w, struct sim_replica *r, struct sim_entry *gone,
                        raft_term term);
/* A group wants its process to end. */
void sim_watch_fatal(struct sim_world *w, struct sim_replica *r, const char *why);
/* The index up to which the live store has applied; 0 = nothing. */
uint64_t sim_watch_applied(const struct sim_replica *r);
/* A proposal was answered with KL_OK at this index. */
void sim_watch_acked(struct sim_world *w, struct sim_replica *r, uint64_t index);
uint64_t sim_watch_acked_index(struct sim_world *w, uint16_t group);
/* The highest index that was surely acknowledged by that time; 0 = not known any more. */
uint64_t sim_watch_acked_by(struct sim_world *w, uint16_t group, uint64_t at_us);
/* After every event of a node: leaders and terms. */
void sim_watch_node(struct sim_world *w, struct sim_node *n);
/* Do all members run and stand at the same index, with all that was acknowledged? */
bool sim_watch_converged(struct sim_world *w);
/* Does every group have one leader, and that at home? */
bool sim_watch_home(struct sim_world *w);
/* At the end: every member holds the same. */
void sim_watch_end(struct sim_world *w);

/* clients.c: those who call. */
void sim_clients_init(struct sim_world *w);
void sim_clients_done(struct sim_world *w);
void sim_clients_event(struct sim_world *w, struct sim_event *e);
/* REQUEST and READ_STEP, in the node's context. */
void sim_request_event(struct sim_node *n, struct sim_event *e);
/* No new operations; true when all have ended. */
void sim_clients_drain(struct sim_world *w);
bool sim_clients_idle(struct sim_world *w);
/* Starts the last reads of every name; true once all have succeeded. */
void sim_clients_finish(struct sim_world *w);
bool sim_clients_finished(struct sim_world *w);
unsigned sim_clients_ops(const struct sim_world *w);

/* faults.c: trouble, and its end. */
void sim_faults_init(struct sim_world *w);
void sim_faults_done(struct sim_world *w);
void sim_faults_event(struct sim_world *w, struct sim_event *e);
void sim_faults_end(struct sim_world *w);

/* members.c: nodes that join and leave. */
void sim_members_init(struct sim_world *w);
void sim_members_done(struct sim_world *w);
void sim_members_event(struct sim_world *w, struct sim_event *e);
/* Steering in a node's context; its event. */
void sim_steer_event(struct sim_node *n, struct sim_event *e);
/* A transfer to any voter, asked of whoever leads. */
void sim_transfer(struct sim_world *w);
/* Have all changes ended? */
bool sim_members_idle(struct sim_world *w);

#endif
