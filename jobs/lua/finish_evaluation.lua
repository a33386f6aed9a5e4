-- The evaluation that a job succeeded without is there: the record, the event and the delivery in one step.
local id, fence, evaluation, delivery_id = unpack(ARGV)
local state, newest = unpack(redis.call('HMGET', key('job', id), 'evaluation_state', 'evaluation_fence'))
if state == 'done' and newest == fence then return reply_job(id) end
if not holds_evaluation(id, fence) then return {'lost'} end
end_evaluation_work(id)
set(id, 'evaluation', evaluation, 'evaluation_state', 'done', 'evaluation_holder', '')
redis.call('ZREM', key('evaluations'), id)
count('evaluated')
record_event(id, 'job.evaluated', {attempt = tonumber(get(id, 'evaluation_attempt'))})
deliver(id, 'job.evaluated', delivery_id)
return reply_job(id)
