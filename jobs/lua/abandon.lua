-- The process of this worker died: its leases on the job, its evaluation, or segments of it, expire now.
local id, worker = unpack(ARGV)
local held = 0
if get(id, 'status') == 'running' and get(id, 'worker') == worker then
  redis.call('ZADD', key('leases'), NOW, id)
  held = 1
end
if get(id, 'evaluation_state') == 'pending' and get(id, 'evaluation_holder') == worker then
  redis.call('ZADD', key('evaluations'), NOW, id)
  held = held + 1
end
local split, due = key('split', id), key('segments', id)
for _, number in ipairs(redis.call('ZRANGE', due, 0, -1)) do
  local lease, holder = unpack(redis.call('HMGET', split, 'held:' .. number, 'worker:' .. number))
  if lease and holder == worker then
    redis.call('ZADD', due, NOW, number)
    held = held + 1
  end
end
return {'ok', held}
