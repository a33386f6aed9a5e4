-- A job's or batch's deliveries with their attempts, oldest first.
local id = ARGV[1]
if redis.call('EXISTS', key('job', id), key('batch', id)) == 0 then return {'missing'} end
local rows = {}
for i, delivery in ipairs(redis.call('LRANGE', key('job_deliveries', id), 0, -1)) do
  rows[i] = {redis.call('HGETALL', key('delivery', delivery)), redis.call('LRANGE', key('attempts', delivery), 0, -1)}
end
return {'ok', rows}
