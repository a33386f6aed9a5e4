-- Return an evaluation undone, with or without counting the attempt: it is due at once.
local id, fence, counts = unpack(ARGV)
if not holds_evaluation(id, fence) then return {'none'} end
if counts == '0' then redis.call('HINCRBY', key('job', id), 'evaluation_attempt', -1) end
end_evaluation_work(id)
set(id, 'evaluation_holder', '')
redis.call('ZADD', key('evaluations'), NOW, id)
return {'ok'}
